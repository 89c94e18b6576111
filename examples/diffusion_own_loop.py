"""Train a denoiser in an own loop with time steps grouped into tasks: steps are drawn, and balanced, by interval."""

import torch
from torch import nn

from coterie.datasets.images import load_images
from coterie.diffusion import IntervalTasks, NoiseSchedule, denoising_losses, step_intervals

images = load_images("digits").train  # (N, 1, 8, 8) in [-1, 1]
schedule = NoiseSchedule.cosine(1000)
intervals = step_intervals(schedule, k=4)  # by log SNR; criterion="gradient" takes a measured affinity


class Denoiser(nn.Module):
    """Any model(x_t, t) will do."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 64))

    def forward(self, x, t):
        return self.layers(torch.cat([x.flatten(1), t.unsqueeze(1) / 1000], 1)).view_as(x)


def train(method):
    torch.manual_seed(0)
    model = Denoiser()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    tasks = IntervalTasks(intervals, method)
    history = []
    for _ in range(300):
        clean = images[torch.randint(len(images), (64,))]
        noise, t = torch.randn_like(clean), tasks.sample(64)  # instead of torch.randint(0, 1000, (64,))

        def losses(clean=clean, noise=noise, t=t):
            return denoising_losses(model, schedule, clean, noise, t)  # (B,): one an image, not their mean

        # instead of loss.backward(), clipping and optimizer.step(); works with every method
        history.append(tasks.step(losses, t, optimizer, max_norm=1.0))
    return torch.stack(history[-50:]).mean(0)


if __name__ == "__main__":
    print("intervals:", intervals.spans)
    for method in ("equal", "uncertainty", "marigold"):
        print(f"{method:12s} loss of each interval: {[round(v, 3) for v in train(method).tolist()]}")
