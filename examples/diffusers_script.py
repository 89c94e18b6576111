"""The four lines that a training script with diffusers and accelerate needs to train time steps as tasks."""

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel

from coterie.datasets.images import load_images
from coterie.diffusion import IntervalTasks, NoiseSchedule, step_intervals

torch.manual_seed(0)
accelerator = Accelerator(cpu=True)
scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "add_attention": False}
model = UNet2DModel(8, 1, 1, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=8, **blocks)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
loader = torch.utils.data.DataLoader(load_images("digits").train, batch_size=40, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

# 1. once: intervals of the scheduler's time steps, and the tasks
tasks = IntervalTasks(step_intervals(NoiseSchedule.from_diffusers(scheduler), k=5), "uncertainty")

if __name__ == "__main__":
    for epoch in range(2):
        for clean in loader:
            noise = torch.randn_like(clean)
            t = tasks.sample(len(clean), device=clean.device)  # 2. was torch.randint(0, 1000, ...)
            prediction = model(scheduler.add_noise(clean, noise, t), t).sample
            per_example = (prediction - noise).square().flatten(1).mean(1)  # 3. was mse_loss(prediction, noise)
            loss = tasks.loss(per_example, t)  # 4. the balanced loss, for backward() as always
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: loss of each interval {[round(v, 3) for v in tasks.means(per_example, t).tolist()]}")
    print("weights of the intervals:", [round(v, 2) for v in tasks.balancer.weights.tolist()])
