"""The process that owns the memory, and its helpers."""
