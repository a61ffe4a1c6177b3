"""Fine-tuning the way people do it, one method a file."""

CHECKPOINT = "checkpoint.safetensors"
"""The file in the output folder that an interrupted training goes on from; removed when it is done."""
