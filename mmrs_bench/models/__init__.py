"""Networks. Know no label, split or file."""
