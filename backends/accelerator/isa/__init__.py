"""What the accelerator executes: fifteen instructions, their bytes and their text."""
