"""Wrong command lines."""

from __future__ import annotations

from tests.errors.world import Case, writes

COMMAND_LINE = [
    Case(
        "a flag that does not exist",
        "main.py --epoch 3",
        "unrecognized arguments: --epoch 3; did you mean --epochs? (--help lists the flags)",
    ),
    Case(
        "a switch with a value",
        "main.py --square True",
        "unrecognized arguments: True; 'True' belongs to no flag (a value with spaces needs quotation "
        "marks, a switch takes no value) (--help lists the flags)",
    ),
    Case(
        "a value with a space, without quotation marks",
        "main.py --output_sub_dir my run",
        "unrecognized arguments: run; 'run' belongs to no flag (a value with spaces needs quotation "
        "marks, a switch takes no value) (--help lists the flags)",
    ),
    Case(
        "a dash of a word processor",
        "main.py —epochs 3",
        "unrecognized arguments: —epochs 3; did you mean --epochs? (--help lists the flags)",
    ),
    Case(
        "a choice that does not exist",
        "main.py --lr_scheduler cosin",
        "argument --lr_scheduler: invalid choice: 'cosin' (choose from {list}); did you mean "
        "CosineAnnealingLR or cosine? (--help lists the flags)",
    ),
    Case(
        "a word in place of a number",
        "main.py --epochs many",
        "argument --epochs: 'many' must be a whole number of at least 1 and at most 1,000,000,000 (--help lists the flags)",
    ),
    Case(
        "a number out of bounds",
        "main.py --epochs 0",
        "argument --epochs: '0' must be a whole number of at least 1 and at most 1,000,000,000 (--help lists the flags)",
    ),
    Case(
        "a negative rate", "main.py --lr -1e-3", "argument --lr: '-1e-3' must be a number of at least 0 (--help lists the flags)"
    ),
    Case(
        "class queries of a decoder without any",
        "main.py --decoder average --query_init means",
        "--query_init: --decoder average has no class queries: leave it out, or choose another decoder",
    ),
    Case(
        "a dropout of all units",
        "main.py --dropout 1",
        "argument --dropout: '1' must be a number of at least 0 and below 1 (--help lists the flags)",
    ),
    Case(
        "growing pictures that shrink",
        "main.py --size_schedule 64:0.4,32:0.7,64",
        "argument --size_schedule: '64:0.4,32:0.7,64' has a size of 32 after 64 pixels; sizes must grow (--help lists the flags)",
    ),
    Case(
        "growing pictures with a size of nothing",
        "main.py --size_schedule 0:0.4,64",
        "argument --size_schedule: '0:0.4,64' has a size of 0 pixels; allowed are 32 to 8192 (--help lists the flags)",
    ),
    Case(
        "growing pictures whose shares do not grow",
        "main.py --size_schedule 32:0.7,48:0.4,64",
        "argument --size_schedule: '32:0.7,48:0.4,64' has shares that are not above 0, growing and below 1; expected "
        "size:share,...,size, as in 160:0.4,224:0.7,448 (each share is the part of the training at which its size ends) "
        "(--help lists the flags)",
    ),
    Case(
        "growing pictures in another form",
        "main.py --size_schedule 32-64",
        "argument --size_schedule: '32-64' has '32-64'; expected size:share,...,size, as in 160:0.4,224:0.7,448 (each share "
        "is the part of the training at which its size ends) (--help lists the flags)",
    ),
    Case(
        "growing pictures that end at another size than that of evaluation",
        "main.py --size_schedule 32:0.5,48",
        "--size_schedule 32:0.5,48 ends at 48 pixels, --image_size is 64: the last size is that of evaluation; give both "
        "the same",
    ),
    Case(
        "growing pictures that start as a single cell",
        "main.py --size_schedule 32:0.5,64",
        "--size_schedule: images of 32 x 32 pixels give a feature map of a single cell, the same for every class: use larger "
        "images or a smaller feature_stride",
    ),
    Case(
        "a file of flags that does not exist",
        "main.py @recipe.args",
        "@recipe.args: the file of flags 'recipe.args' cannot be read (No such file or directory); a "
        "value that begins with @ is given as --flag=@recipe.args (--help lists the flags)",
    ),
    Case(
        "an open quotation mark in a file of flags",
        "main.py @recipe.args",
        'recipe.args:2: no closing quotation in "--output_sub_dir \'my run" (--help lists the flags)',
        writes("recipe.args", "--lr 1e-3\n--output_sub_dir 'my run\n"),
    ),
    Case(
        "an unknown flag in a file of flags",
        "main.py @recipe.args",
        "recipe.args:2: unrecognized arguments: --learning_rate 1 (--help lists the flags)",
        writes("recipe.args", "# ICN\n--learning_rate 1\n"),
    ),
    Case(
        "a file of flags that includes itself",
        "main.py @recipe.args",
        "recipe.args:1: @recipe.args includes itself: take it out (--help lists the flags)",
        writes("recipe.args", "@recipe.args"),
    ),
    Case(
        "a checkpoint in place of a file of flags",
        "main.py @model.pth",
        "model.pth:1: this is no UTF-8 text: give a text file of flags (--help lists the flags)",
    ),
    Case(
        "two starts",
        "main.py --resume model.pth --finetune model.pth",
        "--resume continues a run, --finetune starts one from other weights: give one of them",
    ),
    Case(
        "weights of the backbone twice",
        "main.py --finetune model.pth --backbone_weights default",
        "--backbone_weights: the file of --resume or --finetune has the backbone's weights; leave it out",
    ),
    Case("an evaluation of nothing", "main.py --eval", "--eval needs --resume <checkpoint>: there is nothing to evaluate"),
    Case(
        "an evaluation of a run",
        "main.py --eval --resume auto",
        "--resume auto continues a training: give --eval the file to evaluate",
    ),
    Case(
        "layers of a decoder that has none",
        "main.py --decoder average --dec_layers 1",
        "--decoder average or none has no layers: leave --dec_layers out",
    ),
    Case(
        "a loss of a decoder of sums",
        "main.py --mosaic 1",
        "--mosaic 1.0 needs logits that are sums over cells: give --decoder additive or average",
    ),
    Case(
        "a warm-up longer than the training",
        "main.py --epochs 1 --warmup_epochs 5",
        "--warmup_epochs 5.0 is longer than the training (--epochs 1)",
    ),
    Case(
        "a device that does not exist",
        "main.py --device gpu",
        "--device 'gpu' is not a device: choose auto, cuda, cuda:<index>, mps or cpu",
    ),
    Case(
        "a device that is not supported",
        "main.py --device meta",
        "--device 'meta' is not supported: choose auto, cuda, cuda:<index>, mps or cpu",
    ),
    Case(
        "half precision without a GPU",
        "main.py --precision fp16",
        "--precision fp16 is for CUDA devices: use bf16 or fp32 on the CPU",
    ),
    Case("images that are too small", "main.py --image_size 8", "--image_size 8 must be from 32 to 8192 pixels"),
    Case(
        "images of a single cell",
        "main.py --image_size 32 --feature_stride 32",
        "--image_size: images of 32 x 32 pixels give a feature map of a single cell, the same for every "
        "class: use larger images or a smaller feature_stride",
    ),
    Case(
        "a size that the backbone does not take",
        "main.py --backbone vit_tiny_patch16_224 --feature_stride 16 --image_size 64",
        "--image_size: the backbone takes no images of 64 x 64 pixels: squares that it takes (square): 224",
    ),
    Case(
        "heads that do not divide the width",
        "main.py --hidden_dim 16 --nheads 5",
        "--nheads: num_heads 5 must divide hidden_dim 16",
    ),
    Case(
        "a width that no position fits",
        "main.py --hidden_dim 30",
        "--hidden_dim: 30 must be a multiple of 4: sine and cosine of row and column",
    ),
    Case(
        "a backbone that does not exist",
        "main.py --backbone resnet51",
        "--backbone: 'resnet51' is neither a torchvision ResNet ({list}) nor a timm model; similar: {list}",
    ),
    Case(
        "random weights, frozen",
        "main.py --lr_backbone 0",
        "--lr_backbone 0 would freeze random weights: give --backbone_weights or --finetune, or leave it out",
    ),
    Case(
        "norms of random weights, frozen",
        "main.py --backbone_norm frozen",
        "--backbone_norm frozen would freeze random weights: give --backbone_weights or --finetune, or leave it out",
    ),
    Case(
        "weights of the backbone that do not exist",
        "main.py --backbone_weights resnet.pth",
        "--backbone_weights: resnet.pth does not exist: give the path of a .pth file",
    ),
    Case(
        "another number of classes than the data have",
        "main.py --num_queries 7",
        "--num_queries 7, but datasets/birds/train has 3 classes: leave the flag out, or correct the folder",
    ),
    Case(
        "a class that does not exist",
        "tools.visualization --eval --resume model.pth --class_index wrem",
        "--class_index: model.pth: class 'wrem' does not exist: give an index from 0 to 2, or a name "
        "(near: 2 wren, 1 robin, 0 finch)",
    ),
    Case(
        "a class given twice",
        "tools.figure --resume model.pth --out figure.pdf --classes wren 2",
        "--classes: 2 is given twice: give each class once",
    ),
    Case(
        "a map that does not exist",
        "tools.report --resume model.pth --out page --methods atention",
        "--methods atention: there is no such map; choose from {list}",
    ),
    Case(
        "a map of the ground truth",
        "tools.whatif photos/0.jpg --resume model.pth --erase 0,0,9,9 --method oracle",
        "--method oracle is a map of the ground truth (masks), which is missing; choose from {list}",
    ),
    Case(
        "a layer that does not exist",
        "tools.visualization --eval --resume model.pth --dec_layer_index 2",
        "--dec_layer_index 2 does not exist: model.pth has decoder layers 0 to 0 (or -1 to -1 from the end)",
    ),
    Case(
        "a metric that does not exist",
        "tools.evaluate_attribution --resume model.pth --metrics srgg",
        "--metrics srgg: there is no such metric; choose from {list}",
    ),
    Case(
        "a metric that needs masks",
        "tools.evaluate_attribution --resume model.pth --metrics pointing",
        "--metrics pointing: there is nothing that masks could be measured by: give --masks",
    ),
    Case(
        "a metric that needs key points",
        "tools.evaluate_attribution --resume model.pth --metrics parts",
        "--metrics parts: there is nothing that parts could be measured by: datasets/birds has no annotations.json with "
        "key points",
    ),
    Case(
        "a region outside the photograph",
        "tools.whatif photos/0.jpg --resume model.pth --erase 90,0,10,5",
        "--erase 90,0,10,5 is no region of the photograph, which is 48 x 40 pixels",
    ),
    Case(
        "a comparison of one class",
        "tools.traits --resume model.pth --out traits --classes wren --against wren",
        "--against: give one class in --classes, and another one here",
    ),
    Case(
        "no photographs",
        "tools.predict --resume model.pth",
        "the following arguments are required: PHOTO (--help lists the flags)",
    ),
    Case(
        "a time to accuracy of no recipe",
        "tools.benchmark --time_to 98",
        "--time_to needs --recipe FILE ... and --output_dir, for the logs",
    ),
    Case(
        "a time to accuracy of a recipe that is missing",
        "tools.benchmark --time_to 98 --recipe fast.args",
        "--recipe fast.args: there is no such file; recipes/*.args are ICN's own",
    ),
]
