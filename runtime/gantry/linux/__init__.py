"""The floor: system calls and files."""
