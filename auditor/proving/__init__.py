"""The proving ground: populations with known ground truth, and what is measured on them."""
