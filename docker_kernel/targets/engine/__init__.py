"""Jobs as containers of one engine: the kernel's own, or another."""
