"""The operators of MindIR in ONNX's words, by family. table.py puts the families together."""
