"""The keys that all methods share, with their defaults: the tree of fast-reid, and what was added to it.

The 131 keys of fast-reid keep their names and values. A key that this version does not support is listed in
`fastreid.config.unsupported`; changing it is an error. The keys of a method are in `config.py` in its folder.
"""

from fastreid.config.config import CfgNode as CN
from fastreid.config.method_config import methods
from fastreid.config.sections import add_keys

_C = CN()

# ---------------------------------------------------------------------------------------------- model
_C.MODEL = CN()
# "auto" takes CUDA if there is one, else the CPU; also "cpu", "cuda", "cuda:1".
_C.MODEL.DEVICE = "auto"
# torch.compile for the parts of the model that take most of the time, in training and evaluation. It starts slowly.
_C.MODEL.COMPILE = False
# Store maps with the channels of a pixel side by side, as tensor cores of GPUs read them. Results differ by rounding.
_C.MODEL.CHANNELS_LAST = False
# How a GPU multiplies and convolves float32 tensors: "ieee" (in float32, as a CPU), or "tf32", which is faster and
# rounds the factors to 10 bits. Distances are always computed in float32.
_C.MODEL.FLOAT32 = "ieee"
# Seeds Python, NumPy, torch, the data order and (unless NOISE_SEED says otherwise) the shared noise.
_C.MODEL.SEED = 1111
_C.MODEL.META_ARCHITECTURE = "Baseline"
# Dotted paths of the parts of the model that are frozen in the first SOLVER.FREEZE_ITERS iterations.
_C.MODEL.FREEZE_LAYERS = []
_C.MODEL.QUEUE_SIZE = 8192
# Checkpoint, or .safetensors, to start from (stage 2: the stage-1 checkpoint) or to evaluate.
_C.MODEL.WEIGHTS = ""
# Applied inside the model to images in 0..255.
_C.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
_C.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]

_C.MODEL.BACKBONE = CN()
_C.MODEL.BACKBONE.NAME = "build_resnet_backbone"
# The size, as the backbone calls it: "50x" of ResNets; "base", "small", "tiny", "mini" of ViTs; "base", "large", "mini"
# or the timm name of a CLIP ViT; rows of the tables in modeling/backbones.
_C.MODEL.BACKBONE.DEPTH = "50x"
# ViT: "patch" (one convolution of the patch size) or "conv" (a stack of 3x3 stride-2 convolutions).
_C.MODEL.BACKBONE.STEM = "patch"
# build_vit_backbone: the "class" token, or a map of the tokens of all "patches".
_C.MODEL.BACKBONE.OUTPUT = "class"
# build_clip_backbone: the class token "before" CLIP's projection, "after" it, or "both" side by side.
_C.MODEL.BACKBONE.CLIP_FEATURE = "after"
# build_clip_backbone: keep the first convolution as it is.
_C.MODEL.BACKBONE.FREEZE_PATCH_EMBED = False
# build_timm_backbone: any model of timm, such as "convnext_tiny".
_C.MODEL.BACKBONE.TIMM_NAME = ""
# Stride of the last stage of a ResNet or a similar network, 1 or 2; with 1, maps are twice as high and wide.
_C.MODEL.BACKBONE.LAST_STRIDE = 1
# Channels of the maps of the backbone. The default stands for the number that it has; other values are compared.
_C.MODEL.BACKBONE.FEAT_DIM = 2048
# "BN", "syncBN", "GhostBN", "FrozenBN" or "GN"; NORM_SPLIT is the number of parts that GhostBN normalises separately.
_C.MODEL.BACKBONE.NORM = "BN"
_C.MODEL.BACKBONE.NORM_SPLIT = 1
_C.MODEL.BACKBONE.WITH_IBN = False
_C.MODEL.BACKBONE.WITH_SE = False
_C.MODEL.BACKBONE.WITH_NL = False
_C.MODEL.BACKBONE.SIE_COE = 3.0
_C.MODEL.BACKBONE.CAMERA_NUM = 13
_C.MODEL.BACKBONE.INNER_SUB = False
_C.MODEL.BACKBONE.STRIDE_SIZE = (16, 16)
_C.MODEL.BACKBONE.DROP_PATH_RATIO = 0.1
_C.MODEL.BACKBONE.DROP_RATIO = 0.0
_C.MODEL.BACKBONE.ATT_DROP_RATE = 0.0
_C.MODEL.BACKBONE.PRETRAIN = False
_C.MODEL.BACKBONE.PRETRAIN_PATH = ""
# Least share of the backbone that a pretrained file must fill; if it fills less, an error is raised.
_C.MODEL.BACKBONE.PRETRAIN_MIN_COVERAGE = 0.98

_C.MODEL.HEADS = CN()
_C.MODEL.HEADS.NAME = "EmbeddingHead"
_C.MODEL.HEADS.NORM = "BN"
_C.MODEL.HEADS.NORM_SPLIT = 1
# Number of training people; 0 counts them in the training data.
_C.MODEL.HEADS.NUM_CLASSES = 0
# Channels of a 1x1 convolution after the pooling; 0: no convolution.
_C.MODEL.HEADS.EMBEDDING_DIM = 0
_C.MODEL.HEADS.WITH_BNNECK = False
_C.MODEL.HEADS.NECK_FEAT = "before"
_C.MODEL.HEADS.POOL_LAYER = "GlobalAvgPool"
_C.MODEL.HEADS.CLS_LAYER = "Linear"
# Margin and scale of CosSoftmax, ArcSoftmax and CircleSoftmax.
_C.MODEL.HEADS.MARGIN = 0.0
_C.MODEL.HEADS.SCALE = 1

_C.MODEL.LOSSES = CN()
_C.MODEL.LOSSES.NAME = ("CrossEntropyLoss",)
_C.MODEL.LOSSES.CE = CN()
_C.MODEL.LOSSES.CE.EPSILON = 0.0
_C.MODEL.LOSSES.CE.ALPHA = 0.2
_C.MODEL.LOSSES.CE.SCALE = 1.0
_C.MODEL.LOSSES.FL = CN()
_C.MODEL.LOSSES.FL.ALPHA = 0.25
_C.MODEL.LOSSES.FL.GAMMA = 2
_C.MODEL.LOSSES.FL.SCALE = 1.0
_C.MODEL.LOSSES.TRI = CN()
# 0: soft margin, log(1 + exp(hardest positive - hardest negative)).
_C.MODEL.LOSSES.TRI.MARGIN = 0.3
_C.MODEL.LOSSES.TRI.NORM_FEAT = False
_C.MODEL.LOSSES.TRI.HARD_MINING = False
# Without HARD_MINING: the softmax of AGW's paper. False: its code, in which far negatives lose their weight.
_C.MODEL.LOSSES.TRI.EXACT_SOFTMAX = False
_C.MODEL.LOSSES.TRI.SCALE = 1.0
_C.MODEL.LOSSES.CIRCLE = CN()
_C.MODEL.LOSSES.CIRCLE.MARGIN = 0.25
_C.MODEL.LOSSES.CIRCLE.GAMMA = 128
_C.MODEL.LOSSES.CIRCLE.SCALE = 1.0
_C.MODEL.LOSSES.COSFACE = CN()
_C.MODEL.LOSSES.COSFACE.MARGIN = 0.25
_C.MODEL.LOSSES.COSFACE.GAMMA = 128
_C.MODEL.LOSSES.COSFACE.SCALE = 1.0
_C.MODEL.LOSSES.CENTER = CN()
# Rate at which the centre of a class moves towards its features in a batch; the optimiser does not use it.
_C.MODEL.LOSSES.CENTER.ALPHA = 0.5
_C.MODEL.LOSSES.CENTER.SCALE = 0.0005

_C.KD = CN()
_C.KD.EMA = CN()
_C.KD.EMA.ENABLED = False
_C.KD.EMA.MOMENTUM = 0.999

# ---------------------------------------------------------------------------------------------- input
_C.INPUT = CN()
_C.INPUT.SIZE_TRAIN = [256, 128]
_C.INPUT.SIZE_TEST = [256, 128]
# How test images are resized: "bicubic", as training images, or "bilinear", which is slower.
_C.INPUT.INTERPOLATION_TEST = "bicubic"
_C.INPUT.CROP = CN()
_C.INPUT.CROP.ENABLED = False
_C.INPUT.CROP.SIZE = [224, 224]
_C.INPUT.CROP.SCALE = [0.16, 1]
_C.INPUT.CROP.RATIO = [3.0 / 4.0, 4.0 / 3.0]
_C.INPUT.FLIP = CN()
_C.INPUT.FLIP.ENABLED = False
_C.INPUT.FLIP.PROB = 0.5
_C.INPUT.PADDING = CN()
_C.INPUT.PADDING.ENABLED = False
_C.INPUT.PADDING.MODE = "constant"
_C.INPUT.PADDING.SIZE = 10
_C.INPUT.ROTATION = CN()
_C.INPUT.ROTATION.ENABLED = False
_C.INPUT.ROTATION.DEGREES = 30
_C.INPUT.CJ = CN()
_C.INPUT.CJ.ENABLED = False
_C.INPUT.CJ.PROB = 0.5
_C.INPUT.CJ.BRIGHTNESS = 0.15
_C.INPUT.CJ.CONTRAST = 0.15
_C.INPUT.CJ.SATURATION = 0.1
_C.INPUT.CJ.HUE = 0.1
_C.INPUT.AFFINE = CN()
_C.INPUT.AFFINE.ENABLED = False
_C.INPUT.AUTOAUG = CN()
_C.INPUT.AUTOAUG.ENABLED = False
_C.INPUT.AUTOAUG.PROB = 0.0
_C.INPUT.AUGMIX = CN()
_C.INPUT.AUGMIX.ENABLED = False
_C.INPUT.AUGMIX.PROB = 0.0
_C.INPUT.REA = CN()
_C.INPUT.REA.ENABLED = False
_C.INPUT.REA.PROB = 0.5
_C.INPUT.REA.VALUE = [123.675, 116.28, 103.53]
_C.INPUT.RPT = CN()
_C.INPUT.RPT.ENABLED = False
_C.INPUT.RPT.PROB = 0.5

# ----------------------------------------------------------------------------------------------- data
_C.DATASETS = CN()
# Folder that contains the folders of the benchmarks; "": the environment variable FASTREID_DATASETS, else "datasets".
_C.DATASETS.ROOT = ""
_C.DATASETS.NAMES = ("Market1501",)
_C.DATASETS.TESTS = ("Market1501",)
_C.DATASETS.COMBINEALL = False
# Leave out benchmarks of NAMES and TESTS that have no folder, with a warning, instead of raising an error.
_C.DATASETS.SKIP_MISSING = False
# Which training people are used: from this share to that one of an order that follows from their ids alone. Two stages
# with [0.0, 0.7] and [0.7, 1.0] have no person in common.
_C.DATASETS.PEOPLE = [0.0, 1.0]
# Train on less, to measure what pre-training is worth. "small_scale": a share of the people with all their images;
# "few_shot": all people with a share of the images of each, at least 2. SEED draws another subset; with the same SEED a
# smaller RATIO is a part of a larger one.
_C.DATASETS.SUBSET = CN()
_C.DATASETS.SUBSET.MODE = "none"
_C.DATASETS.SUBSET.RATIO = 1.0
_C.DATASETS.SUBSET.SEED = 0
# Leave out people of DiffPerson that were generated from people of these data sets, such as those that are tested on.
_C.DATASETS.EXCLUDE_SOURCES = []

_C.DATALOADER = CN()
_C.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
_C.DATALOADER.NUM_INSTANCE = 4
# Worker processes that read images, for each process of the run; -1: one for each core but one, at most 8.
_C.DATALOADER.NUM_WORKERS = 8
# For SetReWeightSampler: number of people from each of DATASETS.NAMES among every sum(SET_WEIGHT) people.
_C.DATALOADER.SET_WEIGHT = []
# Seconds to wait for a batch of the data workers before the run stops with an error; 0 is no limit.
_C.DATALOADER.TIMEOUT = 600
# An image that cannot be read: "raise" stops the run; "skip" trains on another image of the same person, leaves it out
# of the protocols, and is counted (missing_images in results.json).
_C.DATALOADER.BAD_IMAGES = "raise"

# --------------------------------------------------------------------------------------------- solver
_C.SOLVER = CN()
_C.SOLVER.AMP = CN()
_C.SOLVER.AMP.ENABLED = False
# "auto": bf16 where the device has it in hardware (CPUs too), else fp16 on CUDA, else fp32.
_C.SOLVER.AMP.DTYPE = "auto"
# Store the frozen weights of assets (Stable Diffusion's UNet and autoencoder) in this format: the same results with
# half the memory. Without TEST.AMP those that evaluation uses stay float32.
_C.SOLVER.AMP.FROZEN = True
# Any class of torch.optim, or one registered in OPTIMIZER_REGISTRY.
_C.SOLVER.OPT = "Adam"
# Further arguments of the optimiser, as pairs: [[betas, [0.9, 0.98]], [amsgrad, True]].
_C.SOLVER.OPT_ARGS = []
_C.SOLVER.MAX_EPOCH = 120
# Iterations of an epoch; 0: training images // IMS_PER_BATCH.
_C.SOLVER.ITERS_PER_EPOCH = 0
_C.SOLVER.BASE_LR = 3e-4
# Above 0 replaces BASE_LR (kept for SD-ReID's files).
_C.SOLVER.OVERRIDE_LR = 0.0
_C.SOLVER.HEADS_LR_FACTOR = 1.0
# Below 1: each layer of the backbone learns at this share of the rate of the one above it; 1 is off.
_C.SOLVER.LAYER_DECAY = 1.0
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.NESTEROV = False
_C.SOLVER.WEIGHT_DECAY = 0.0005
_C.SOLVER.WEIGHT_DECAY_NORM = 0.0005
_C.SOLVER.BIAS_LR_FACTOR = 1.0
_C.SOLVER.WEIGHT_DECAY_BIAS = 0.0005
# "MultiStepLR", "EpochWarmupMultiStepLR", "CosineAnnealingLR", "EpochWarmupCosineLR", "LinearLR" or
# "LinearWarmupMultiStepDecayLRScheduler".
_C.SOLVER.SCHED = "MultiStepLR"
_C.SOLVER.DELAY_EPOCHS = 0
_C.SOLVER.GAMMA = 0.1
_C.SOLVER.STEPS = [30, 55]
# Shares of the run, such as [0.5, 0.8], at which the rate is multiplied by GAMMA; they replace STEPS.
_C.SOLVER.STEP_SHARES = []
_C.SOLVER.DECAY_RATE = 0.1
_C.SOLVER.DECAY_EPOCHS = [50]
_C.SOLVER.ETA_MIN_LR = 1e-7
_C.SOLVER.WARMUP_FACTOR = 0.1
_C.SOLVER.WARMUP_ITERS = 1000
# Share of the run that is warm-up, such as 0.1; above 0 it replaces WARMUP_ITERS.
_C.SOLVER.WARMUP_SHARE = 0.0
_C.SOLVER.WARMUP_METHOD = "linear"
# Length of the warm-up of EpochWarmupMultiStepLR and EpochWarmupCosineLR, which change the rate once per epoch and
# count epochs from 1.
_C.SOLVER.WARMUP_EPOCHS = 10
# Number of iterations in which MODEL.FREEZE_LAYERS are frozen; 0: none, -1: all of the run.
_C.SOLVER.FREEZE_ITERS = 0
_C.SOLVER.CHECKPOINT_PERIOD = 20
# Number of the newest model_NNNN.pth to keep; 0: all. model_best.pth and model_final.pth are always kept.
_C.SOLVER.KEEP_CHECKPOINTS = 0
# Images of one update, over all processes and accumulation steps.
_C.SOLVER.IMS_PER_BATCH = 64
# Lower IMS_PER_BATCH to NUM_INSTANCE images of each training person if there are fewer people than a batch needs.
_C.SOLVER.FIT_BATCH = False
# Evaluate a moving average of the weights, and save it as "model" in checkpoints. MOMENTUM is the share of the old
# average; WARMUP makes it smaller in the first steps.
_C.SOLVER.EMA = CN()
_C.SOLVER.EMA.ENABLED = False
_C.SOLVER.EMA.MOMENTUM = 0.999
_C.SOLVER.EMA.WARMUP = True
# Every process keeps a part of each weight (fully sharded data parallel), for a model that one GPU cannot hold.
_C.SOLVER.FSDP = CN()
_C.SOLVER.FSDP.ENABLED = False
# Format in which the weights of a block are gathered: "auto", that of SOLVER.AMP if training and evaluation (TEST.AMP)
# both run in it, which halves the traffic; or "fp32". Each process stores its part in float32 in any case.
_C.SOLVER.FSDP.GATHER_DTYPE = "auto"
# Add up gradients over the processes after each part of a batch (SOLVER.ACCUMULATION_STEPS). False does it once per
# update, but each process then keeps whole gradients.
_C.SOLVER.FSDP.SYNC_EACH_PART = True
# Parts in which a batch goes through the model, to save memory.
_C.SOLVER.ACCUMULATION_STEPS = 1
# Number of steps in a row that may be skipped because a loss or a gradient is not finite; 0 stops at the first.
_C.SOLVER.MAX_NONFINITE = 10
_C.SOLVER.CLIP_GRADIENTS = CN()
_C.SOLVER.CLIP_GRADIENTS.ENABLED = False
_C.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
_C.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 5.0
_C.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0

# ----------------------------------------------------------------------------------------------- test
_C.TEST = CN()
_C.TEST.EVAL_PERIOD = 20
_C.TEST.IMS_PER_BATCH = 64
_C.TEST.METRIC = "cosine"
# Rows [protocol, figure, value, tolerance] that train_net.py --verify compares with the results at the end of the run.
_C.TEST.EXPECTED_RESULTS = []
# MiB that ranking may use beside the descriptors; on a GPU at least a quarter of what is free there. Figures do not
# depend on it.
_C.TEST.MEMORY_BUDGET = 256.0
# Compute features in SOLVER.AMP.DTYPE too (scores stay float32): faster, and close to but not the same numbers.
_C.TEST.AMP = CN()
_C.TEST.AMP.ENABLED = False
# "compiled" (the kernels of the library, on the CPU: the same bits everywhere), "torch" (on MODEL.DEVICE), or
# "auto": compiled if it is built.
_C.TEST.ENGINE = "auto"
# Neighbours of re-ranking and expansion: "compiled", "torch" (on MODEL.DEVICE), "faiss", or "auto" as TEST.ENGINE.
_C.TEST.SEARCH = "auto"
# Rank-k as on CUHK03: one gallery image per person, the expectation over all draws.
_C.TEST.SINGLE_SHOT = False
# Report Recall@k of image retrieval, which is Rank-k, for these numbers k.
_C.TEST.RECALLS = []
# Figures for each pair of views, of cameras, or both: ["view", "camera"].
_C.TEST.BREAKDOWN = []
# Pictures in OUTPUT_DIR/plots: match curve, ROC, DET, distances of right and wrong pairs.
_C.TEST.PLOTS = False
# OUTPUT_DIR/report.html after the last evaluation: figures, ranked lists, failed queries, training curves.
_C.TEST.REPORT = True
# Verification: TPR@FPR, AUC, equal error rate, accuracy and its threshold; thresholds at rates of false matches.
_C.TEST.ROC = CN()
_C.TEST.ROC.ENABLED = False
# Average the descriptor of each image with that of its mirror image; takes twice the time.
_C.TEST.FLIP = CN()
_C.TEST.FLIP.ENABLED = False
# Database-side augmentation of the gallery, before anything else.
_C.TEST.DBA = CN()
_C.TEST.DBA.ENABLED = False
_C.TEST.DBA.K = 5
_C.TEST.DBA.ALPHA = 3.0
# Average query expansion, of queries and gallery as in fast-reid.
_C.TEST.AQE = CN()
_C.TEST.AQE.ENABLED = False
_C.TEST.AQE.ALPHA = 3.0
_C.TEST.AQE.QE_TIME = 1
_C.TEST.AQE.QE_K = 5
# k-reciprocal re-ranking (Zhong et al., 2017); LAMBDA weighs the plain distance.
_C.TEST.RERANK = CN()
_C.TEST.RERANK.ENABLED = False
_C.TEST.RERANK.K1 = 20
_C.TEST.RERANK.K2 = 6
_C.TEST.RERANK.LAMBDA = 0.3
# Recompute batch norm statistics after the last iteration, from NUM_ITER batches of training images of DATASET; ""
# stands for DATASETS.NAMES.
_C.TEST.PRECISE_BN = CN()
_C.TEST.PRECISE_BN.ENABLED = False
_C.TEST.PRECISE_BN.DATASET = "Market1501"
_C.TEST.PRECISE_BN.NUM_ITER = 300

# User-defined Python files, imported before anything else: keys and parts that they add can be named in the config.
_C.IMPORTS = []
_C.OUTPUT_DIR = "logs/"
_C.CUDNN_BENCHMARK = False
# Use only operations that give the same bits each time, also on GPUs; some are slower, and others raise an error.
_C.DETERMINISTIC = False

for _method in methods():
    add_keys(_C, _method.keys)
