"""NVIDIA's embedding models that are made of a Llama: with vision (Nemotron VL), and for text alone."""
