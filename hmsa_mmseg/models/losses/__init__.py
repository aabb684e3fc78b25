from .class_weighted_cross_entropy import ClassWeightedCrossEntropyLoss
from .rmi_loss import RMILoss

__all__ = ['ClassWeightedCrossEntropyLoss', 'RMILoss']
