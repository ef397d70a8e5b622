"""What an NVIDIA GPU shows in ten minutes: `make gpu`, or `python -m benches.gpu` on a machine with nothing but Python, torch,
transformers, PEFT and a built `_core.abi3.so`."""
