/* SPDX-License-Identifier: MIT */
/* rollout: attention rollout (Abnar and Zuidema 2020) over the layers of a stack,
 *
 *     R_0 = I;  R_l = norm(0.5 (A_l + I)) R_{l-1}
 *
 * where A_l is the mean map over heads of layer l, and norm divides each row by its sum. The scalar
 * reference, and all there is: f64, n^3 operations a layer. Any thread. */
#ifndef WORKERS_MAPS_ROLLOUT_H
#define WORKERS_MAPS_ROLLOUT_H

#include <stdint.h>

/* `map` is [n][n], cells of a square map of `keys` keys (head_maps.h): means of their entries. A
 * cell times the keys in it is the weight that its queries give to those, so that a row sums to
 * what a row of A does, pooled or not. A row that is not finite, or sums to 0 or less, is taken as
 * I's. `rollout` is R_{l-1} and becomes R_l; `work` has room for n * (n + 1) numbers. */
void rollout_add(const float *map, uint32_t n, uint32_t keys, double *rollout, double *work);

#endif
