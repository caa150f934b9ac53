"""What the accelerator executes: sixteen instructions, their bytes and their text."""
