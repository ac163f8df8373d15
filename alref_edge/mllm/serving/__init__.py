"""vLLM on this machine: found, started, watched, and ended with the program that started it."""
