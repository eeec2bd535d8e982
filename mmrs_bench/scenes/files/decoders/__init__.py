"""Readers of file formats, and the child process in which C libraries read."""
