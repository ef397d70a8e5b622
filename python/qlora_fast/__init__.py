"""qlora-fast."""
