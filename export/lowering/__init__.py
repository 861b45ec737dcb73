"""From a PyTorch module to graphs and engines: lowering, head, precisions."""
