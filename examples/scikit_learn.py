"""Random forests for many targets: which of them should share a forest.

Seven questions about a picture are tasks of one data set; some labels are missing. A forest that answers several
questions splits its trees for all of them at once, which helps where they are alike and costs where they are not. `fit`
compares groups on rows that it sets aside, and says whether more than one forest is worth it.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from coterie.sklearn import GroupedTasksClassifier

pictures, digit = load_digits(return_X_y=True)
bright = pictures.reshape(-1, 8, 8)
questions = [digit == 0, digit == 1, digit == 8, digit % 2, digit > 4]
questions += [bright[:, :4].sum((1, 2)) > bright[:, 4:].sum((1, 2)), bright[:, :, :4].sum((1, 2)) > 150]
labels = np.stack(questions, axis=1).astype(float)
rng = np.random.default_rng(0)
labels[rng.random(len(labels)) < 0.2] = np.nan  # rows that nobody looked at

forest = RandomForestClassifier(n_estimators=20, max_depth=8)
model = GroupedTasksClassifier(forest, budget=3, seeds=2, random_state=0)
model.fit(pictures[:1200], labels[:1200])
print(model.recommendation_)
for group in model.grouping_.groups:
    print("one forest for", ", ".join(model.task_names_[task] for task in group))
print(f"accuracy on new rows: {model.score(pictures[1200:], labels[1200:]):.3f}")
