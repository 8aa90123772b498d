"""Model files, and what lies inside a segment."""
