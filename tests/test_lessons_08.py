"What lesson 08 claims about its networks"
import torch
from torch.testing import assert_close

from diffnb.unet import MLP


def test_the_network_for_points_listens_to_the_label():
    torch.manual_seed(0)
    points = MLP(classes=3)
    same_point, same_angle = torch.ones(4, 2), torch.ones(4)
    answers = points(same_point, same_angle, torch.tensor([0, 1, 2, -1]))
    assert len(answers.unique(dim=0)) == 4
    assert_close(points(same_point, same_angle)[0], answers[3])
