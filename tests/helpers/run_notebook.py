"""Runs cells of a notebook, read from standard input as a JSON list, and prints their outputs as JSON."""

from __future__ import annotations

import json
import sys

import nbformat
from nbclient import NotebookClient

if __name__ == "__main__":
    cells = [nbformat.v4.new_code_cell(source) for source in json.load(sys.stdin)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=250, kernel_name="python3").execute()
    json.dump([cell.outputs for cell in notebook.cells], sys.stdout)
