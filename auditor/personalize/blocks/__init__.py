"""What fine-tuning methods are made of: each file is one building block, and a method is a short file that joins some.

``examples`` pictures as cached latents; ``denoising`` a training step's draw and its error; ``optimise`` the loop with
checkpoints; ``words`` learned vectors for new words, also by stage of denoising; ``layers`` changes of weights;
``attention`` cross-attention recorded or given two sources; ``saving`` files that the ecosystem loads, with provenance.

Whole models: ``whole`` copies trained in a base's place; ``beside`` two sets of pictures in one loss; ``positions``
where a patch lies; ``pipelines`` a folder that diffusers opens.

Sampling that ordinary pipelines have no word for: ``ruled`` a rule in place of a denoiser; ``staged`` and ``stepwise``
other vectors by stage and by step; ``pair`` two models together; ``reference`` a picture pasted in. For some of these,
``stage_network`` makes the vectors of all stages, and ``masks`` says where the subject is.
"""
