# SPDX-License-Identifier: Apache-2.0
"""What the clips of a world are like: shares of causes and answers, speeds, how wrong constant velocity is.

`python -m alpamayo_rt.demo.statistics` prints the table for 400 test clips; no torch needed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from alpamayo_rt.demo.arrays import CAUSES, FUTURE, SceneArrays
from alpamayo_rt.demo.simulate import simulate
from alpamayo_rt.demo.truth import future, junction, words


def constant_velocity_ade(scene: SceneArrays) -> float:
    """Average displacement in metres, over 6.4 s, of driving on straight at the present speed."""
    t0 = int(scene.t0)
    true = future(scene, t0)[0][:, :2]
    straight = np.zeros_like(true)
    straight[:, 0] = scene.ego[t0, 3] * 0.1 * np.arange(1, FUTURE + 1)
    return float(np.hypot(*(true - straight).T).mean())


def summarize(scenes: Sequence[SceneArrays]) -> dict[str, Any]:
    """Figures over the own windows of `scenes`; keys: causes, answers, reaching, accel, curvature."""
    causes: dict[str, list[SceneArrays]] = {cause: [] for cause in CAUSES}
    answers: dict[str, Counter[str]] = {}
    for scene in scenes:
        causes[scene.cause_name].append(scene)
        for item in words(scene, int(scene.t0))["questions"]:
            answers.setdefault(item["question"], Counter())[item["answer"]] += 1
    rows = {}
    for cause, group in causes.items():
        speed = [float(s.ego[int(s.t0), 3]) for s in group]
        ade = [constant_velocity_ade(s) for s in group]
        rows[cause] = {
            "share": len(group) / len(scenes),
            "speed": float(np.mean(speed)) if speed else 0.0,
            "standing": float(np.mean([v < 0.3 for v in speed])) if speed else 0.0,
            "cv_ade": float(np.mean(ade)) if ade else 0.0,
            "actions": Counter(words(s, int(s.t0))["action"] for s in group),
        }
    ahead = [j for s in scenes if (j := junction(s, int(s.t0))) is not None]
    return {
        "causes": rows,
        "answers": answers,
        "reaching": sum(j["reaches_branch"] for j in ahead) / len(scenes),
        "accel": (min(s.ego[:, 4].min() for s in scenes), max(s.ego[:, 4].max() for s in scenes)),
        "curvature": max(np.abs(s.ego[:, 5]).max() for s in scenes),
    }


def main(clips: int = 400, seed: int = 0) -> None:
    """Print the table for the first `clips` test clips of world `seed`."""
    figures = summarize([simulate("test", seed, i) for i in range(clips)])
    print(f"{'cause':14s} share  v0 m/s  standing  CV ADE m  actions")
    for cause, row in figures["causes"].items():
        print(
            f"{cause:14s} {row['share']:5.3f} {row['speed']:7.2f} {row['standing']:9.2f}"
            f" {row['cv_ade']:9.2f}  " + ", ".join(f"{a} {n}" for a, n in row["actions"].most_common())
        )
    for question, counts in figures["answers"].items():
        total = sum(counts.values())
        print(f"{question} ({total})", ", ".join(f"{a} {n / total:.2f}" for a, n in counts.most_common()))
    print(f"reach a junction's branch: {figures['reaching']:.2f} of all clips")
    low, high = figures["accel"]
    print(f"acceleration {low:.2f} to {high:.2f} m/s2, curvature up to {figures['curvature']:.3f} 1/m")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
