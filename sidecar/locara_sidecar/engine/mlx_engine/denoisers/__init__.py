"""The networks that predict noise or velocity: FLUX's and SD3's transformers, SDXL's UNet."""
