"""Labels of files: values that mean classes, masks and lists of pixels of official splits."""
