"""The neural layers: pure ``nn.Module``s and functions that know nothing of text, training or configs."""
