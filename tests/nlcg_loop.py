"""NLCG as a plain loop over one float64 vector, by torch's own vector products."""

import torch

WORSE = [(1.15, 0.5, 0.9), (1.125, 0.7, 0.7), (1.1, 0.8, 0.5), (1.075, 0.9, 0.3), (1.05, 0.95, 0.2),
         (1.025, 0.975, 0.1), (1.01, 1.0, 0.1)]  # fmt: skip


class Loop:
    """x, moved by ``step(g, loss, lr)``; ``trace``: (beta, base, taken back, whether h changed) of each step."""

    def __init__(self, x, rule, decay=0.0):
        self.x, self.rule, self.decay, self.k, self.base = x.clone(), rule, decay, 0, 1.0
        self.h, self.d, self.g, self.z = torch.ones_like(x), torch.zeros_like(x), None, None
        self.rz = self.mean = self.before = None
        self.trace = []

    def step(self, g, loss, lr):
        rule, loss, kept_h = self.rule, float(loss), self.h
        g = g + self.decay * self.x
        if self.k and rule.precondition:
            s, y = self.base * lr * self.d, g - self.g
            ys, shs = float(y @ s), float(s @ (self.h * s))
            if ys >= 1e-8 and shs >= 1e-8:
                self.h = abs(self.h - ((self.h * s) ** 2 + 1e-8) / (shs + 1e-8) + (y**2 + 1e-8) / (ys + 1e-8))
        r = -g
        z = r / (self.h + 1e-8) if rule.precondition else r
        rz, beta = float(r @ z), 0.0
        if self.k:
            beta = rz - float(r @ self.z) if rule.update == "polak-ribiere" else rz
            beta = min(max(beta / (self.rz + 1e-8), 0.0), 1.0)
        d = z + beta * self.d
        base, back = self._monitor(loss)
        self.x = self.x + lr * ((1 - back) * base * d - back * self.base * self.d)
        self.trace.append((beta, base, back, self.h is not kept_h))
        self.d, self.g, self.z, self.rz, self.base, self.k = d, g, z, rz, base, self.k + 1

    def _monitor(self, loss):
        if not self.k:
            self.mean = self.before = loss
            return 1.0, 0.0
        self.mean = 0.7 * self.mean + 0.3 * loss
        if self.rule.monitor == "online":
            ratio, growth = loss / self.mean, 1.02
        elif self.k % self.rule.period:
            return self.base, 0.0
        else:
            ratio, growth = self.mean / self.before, 1.05
            self.before = self.mean
        if ratio < 1 + 0.01 * self.rule.threshold:
            return min(1.0, growth * self.base), 0.0
        for bound, shrink, back in WORSE:
            if ratio > 1 + (bound - 1) * self.rule.threshold:
                return max(1e-4, self.base * shrink), back
        return self.base, 0.0
