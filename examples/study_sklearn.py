"""A study without torch: which targets of a scikit-learn model should share it.

Six targets of two kinds are predicted from the same measurements by a model that shares one component. A study asks
which targets to fit together, gets their losses, and says which groups to serve. It stands in a journal file: run this
script again and it goes on; run it in two shells and they share the work.
"""

import numpy as np
from sklearn.cross_decomposition import PLSRegression

import coterie

rng = np.random.default_rng(0)
x = rng.normal(size=(600, 20))
causes = rng.normal(size=(20, 2))
y = x @ causes[:, [0, 0, 0, 1, 1, 1]] + 4 * rng.normal(size=(600, 6))
TASKS = ["fever", "cough", "chill", "ache", "rash", "itch"]


def train(tasks, seed):
    columns = [TASKS.index(task) for task in tasks]
    rows = np.random.default_rng(seed).choice(300, 80, replace=False)
    model = PLSRegression(n_components=1).fit(x[rows], y[rows][:, columns])
    errors = (model.predict(x[300:]).reshape(300, -1) - y[300:, columns]) ** 2
    return dict(zip(tasks, errors.mean(axis=0), strict=True))


study = coterie.create_study("symptoms", tasks=TASKS, models=2, load_if_exists=True)
study.optimize(train, runs=24)
found = study.recommend()
print(found.text)
for group in found.groups:
    print("train together:", ", ".join(group))
