"""The networks that predict noise or velocity: the transformers of FLUX, FLUX.2, SD3 and Z-Image, and SDXL's UNet."""
