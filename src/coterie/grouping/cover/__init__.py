"""Selection under a budget: groups that may overlap, each task served by its best one."""
