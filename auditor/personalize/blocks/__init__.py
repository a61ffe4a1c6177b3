"""What fine-tuning methods are made of: each file is one building block, and a method is a short file that joins some.

``examples`` pictures as cached latents; ``denoising`` a training step's draw and its error; ``optimise`` the loop with
checkpoints; ``words`` learned vectors for new words, also by stage of denoising; ``layers`` changes of weights;
``attention`` cross-attention recorded or given two sources; ``saving`` files that the ecosystem loads, with provenance.
"""
