"""What computes on a device that it knows by name."""

from mfa import _keywords
from mfa._context import Context
from mfa._messages import shown


class OnDevice:
    """Has a context of its own, which copies and pickles make anew; None is the process-wide one."""

    def __init__(self, device):
        text = _keywords.text_of(device)
        if text not in ("auto", "cpu", "metal"):
            error = TypeError if text is None else ValueError
            raise error(f"device: {shown(device)}, expected 'auto', 'cpu' or 'metal'")
        self.device = text
        self.context = None if text == "auto" else Context(text)

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "context"}

    def __setstate__(self, state):
        vars(self).update(state)
        OnDevice.__init__(self, self.device)
