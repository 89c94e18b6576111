"""A run on a Dask cluster; here four lines start a small one on this machine. Needs: pip install 'coterie[cluster]'."""

import torch
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits

import coterie


def main():
    x, y = load_digits(return_X_y=True)
    recipe = coterie.Recipe(epochs=4, batch_size=50, check_every=5)
    work = coterie.from_arrays(x, (y[:, None] == range(5)).astype(float), recipe=recipe, hidden=(16,))
    torch.set_num_threads(1)  # workers use as many as this process; one each is best for small models
    # on a real cluster: Client("tcp://scheduler:8786")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        there = coterie.run(work, groups=2, seeds=3, bases=1, executor=client.get_executor())
    here = coterie.run(work, groups=2, seeds=3, bases=1)
    print(there)
    print("the same as in one process:", there.to_dict()["comparison"] == here.to_dict()["comparison"])


if __name__ == "__main__":  # the workers import this file
    main()
