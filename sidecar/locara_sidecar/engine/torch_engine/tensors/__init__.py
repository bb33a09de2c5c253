"""From safetensors files to modules, whole or quantized."""
