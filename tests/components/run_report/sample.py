"""Make a small report, with optional changes to its metrics, to render in tests."""

import numpy as np

from components.run_report.report import Report


def report(**metrics_changes):
    evaluation = {"counts": {"images": 4}, "seconds": 1.0, "thresholds": {}, "failed_thresholds": []}
    metrics = {
        "reconstruction": {
            **evaluation,
            "psnr": 22.5,
            "codebook_usage": 0.75,
            "codebook_perplexity": 12.0,
            "protocol": {"usage_batch": 4, "inception_splits": 1},
            "intervals": {"psnr": [21.25, 23.75]},
            "blessed": True,
        },
        "generation": {
            **evaluation,
            "fid": 2.5,
            "fid_eval": 0.5,
            "class_accuracy": 0.875,
            "memorization": 0.25,
            "counts": {"samples": 6, "candidates": 6, "train_images": 1234, "eval_images": 4},
            "intervals": {"class_accuracy": [0.5, 0.97], "memorization": [0.125, 0.375]},
            "protocol": {
                "features": "classifier",
                "dimensions": 5,
                "recognizer": {"network": "classifier", "classes": 2, "held_out_accuracy": 1.0},
                "classes": "in turn",
                "acceptance": 1.0,
                "inception_splits": 1,
            },
            "blessed": True,
        },
        "linear_probe": {
            "top1": 0.9,
            "best_block": 2,
            "by_block": [{"block": 1, "top1": 0.5}, {"block": 2, "top1": 0.9}],
            "counts": {"eval_images": 4},
            "classes": 2,
            "intervals": {"top1": [0.4, 0.99]},
            "protocol": {"epochs": 90},
            "seconds": 1.0,
        },
    }
    for name, changes in metrics_changes.items():
        metrics[name] = {**metrics[name], **changes}
    images = np.arange(6 * 8 * 8 * 3, dtype=np.uint8).reshape(6, 8, 8, 3)
    return Report(
        config={
            "name": "tiny",
            "seed": 7,
            "data": {"source": "<somewhere>"},
            **{section: {"train": {"export": "last"}} for section in ("stage1", "classifier", "stage2")},
        },
        dataset={
            "notes": ["splits are the folders train and val"],
            "source": "<somewhere>",
            "fingerprint": "0123456789abcdef",
            "class_names": ["dark", "grey & bright"],
            "splits": {"train": {"records": 1234}, "eval": {"records": 4}},
            "broken": 0,
        },
        metrics=metrics,
        histories={
            "tokenizer": [
                {"step": 1, "loss": 0.9, "codebook_usage": 0.1, "l2": 0.3},
                {"step": 50, "loss": 0.4, "codebook_usage": 0.6, "l2": None, "eval_loss": 0.5},
            ],
            "classifier": [],
            "vim": [{"step": 1, "loss": 3.0}],
        },
        samples={"images": images, "classes": np.array([0, 0, 0, 1, 1, 1])},
        pairs={"originals": images, "reconstructions": images, "labels": np.zeros(6, np.int64)},
        alarms={"tokenizer": [], "classifier": [], "vim": []},
        ranked={
            "originals": images[:3],
            "reconstructions": images[3:],
            "labels": np.array([0, 1, -1]),
            "groups": np.arange(3),
            "values": np.array([30.0, 22.5, 18.0]),
            "by": np.array("psnr"),
        },
        codes={"counts": np.array([5, 0, 40, 1])},
        neighbours={
            "samples": images[[0, 3]],
            "classes": np.array([0, 1]),
            "of": np.array([0, 0, 1]),
            "by": np.array([0, 1, 0]),
            "images": images[:3],
            "distances": np.array([0.5, 0.125, 2.0], np.float32),
        },
    )
