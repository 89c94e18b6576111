"""FAMO written from its equations, one task after the other: numbers, loops, no tensors."""

import math


class NaiveFamo:
    """Weights of FAMO. Usage at a step: weights(before), train the model, update(before, after)."""

    def __init__(self, n, learning_rate=0.025, decay=1e-3, floor=0.0):
        self.n, self.learning_rate, self.decay, self.floor = n, learning_rate, decay, floor
        self.logits, self.first, self.second, self.time = [0.0] * n, [0.0] * n, [0.0] * n, 0

    def softmax(self):
        exponentials = [math.exp(w) for w in self.logits]
        return [e / sum(exponentials) for e in exponentials]

    def weights(self, losses):
        """z_i / l_i, divided by their sum: the factors of the losses in the model's gradient."""
        z = self.softmax()
        distances = [loss - self.floor + 1e-8 for loss in losses]
        c = 1.0 / sum(z[i] / distances[i] for i in range(self.n))
        return [c * z[i] / distances[i] for i in range(self.n)]

    def update(self, before, after):
        delta = [
            math.log(before[i] - self.floor + 1e-8) - math.log(after[i] - self.floor + 1e-8) for i in range(self.n)
        ]
        z = self.softmax()
        self.time += 1
        slope = [sum(z[j] * ((i == j) - z[i]) * delta[j] for j in range(self.n)) for i in range(self.n)]
        for i in range(self.n):
            g = slope[i] + self.decay * self.logits[i]
            self.first[i] = 0.9 * self.first[i] + 0.1 * g
            self.second[i] = 0.999 * self.second[i] + 0.001 * g * g
            m = self.first[i] / (1 - 0.9**self.time)
            v = self.second[i] / (1 - 0.999**self.time)
            self.logits[i] -= self.learning_rate * m / (math.sqrt(v) + 1e-8)
