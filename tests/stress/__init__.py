"""`weightd stress`, and whether it would notice."""
