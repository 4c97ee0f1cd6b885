"""What `make bench` runs: the four costs of SeqGAN beside the plain PyTorch way and the machine's own limit."""
