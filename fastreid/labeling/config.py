"""The config keys of clustering, which all methods without person labels read."""

from __future__ import annotations

from fastreid.config.method_config import Key, MethodConfig
from fastreid.config.ranges import COUNT, FLAG, NAME, NOT_NEGATIVE, SHARE_ABOVE_0, one_of

KEYS = {
    # How features are clustered: "dbscan" or "hdbscan" (scikit-learn's), by their Jaccard distances.
    "CLUSTER.METHOD": Key("dbscan", NAME),
    # Epochs after which all training images are clustered anew.
    "CLUSTER.PERIOD": Key(1, COUNT),
    # Jaccard distance: number of neighbours that encode an image, the image included, and number of them over whose
    # encodings its own is averaged.
    "CLUSTER.K1": Key(30, COUNT),
    "CLUSTER.K2": Key(6, COUNT),
    # DBSCAN: greatest Jaccard distance of two neighbours.
    "CLUSTER.EPS": Key(0.5, SHARE_ABOVE_0),
    # Number of neighbours of a core point, the point included. HDBSCAN: also the size of the smallest cluster.
    "CLUSTER.MIN_SAMPLES": Key(4, COUNT),
    # Images in no cluster: "drop" does not train on them in this epoch, "single" makes each a cluster of its own.
    "CLUSTER.OUTLIERS": Key("drop", one_of("drop", "single")),
    # Subtract the mean feature of an image's camera before clustering.
    "CLUSTER.CAMERA_AWARE": Key(False, FLAG),
    # How neighbours are searched: "compiled" (on the CPU), "torch" (on MODEL.DEVICE), "faiss", or "auto": compiled if
    # MODEL.DEVICE is the CPU, else torch.
    "CLUSTER.KNN_BACKEND": Key("auto", one_of("auto", "compiled", "torch", "faiss")),
    # Write clusters.csv and a contact sheet per cluster into OUTPUT_DIR after training.
    "CLUSTER.EXPORT": Key(True, FLAG),
    # Most clusters: rows of the memory, or of the classifier. 0 is for a model that is only evaluated.
    "MODEL.HEADS.MAX_CLUSTERS": Key(3000, NOT_NEGATIVE),
}

CONFIG = MethodConfig(models=("ClusterContrast", "PISL"), keys=KEYS)

CLASSIFIER = MethodConfig(
    models=("PISL",),
    # Set the rows of the classifiers to the centres of the clusters after each clustering.
    keys={"CLUSTER.REINIT_CLASSIFIER": Key(True, FLAG)},
)
