"""From mappings to programs."""
