"""The networks of which make.py makes files, by family."""
