"""Fetches, verifies and reads the files of scenes."""
