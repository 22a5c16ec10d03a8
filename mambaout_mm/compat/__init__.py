"""What OpenMMLab lacks here, added from outside: compiled operators, FLOPs of new operators."""
