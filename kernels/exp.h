/* SPDX-License-Identifier: GPL-3.0-or-later
 * exp.h: constants of exp (kernels.h has the method) and the lane sum, shared by all levels. */
#ifndef BB_KERNELS_EXP_H
#define BB_KERNELS_EXP_H

#define BB_EXP_LOW -87.33654f /* ln FLT_MIN, rounded up */
#define BB_EXP_HIGH 88.37626f /* below 127.5 ln 2, so that k <= 127 */
#define BB_EXP_LOG2E 0x1.715476p+0f
#define BB_EXP_LN2_HI 0x1.62e4p-1f /* 15 bits: k * LN2_HI is exact */
#define BB_EXP_LN2_LO 0x1.7f7d1cp-20f
#define BB_EXP_ROUND 0x1.8p+23f /* adding it rounds to an integer, which then sits in the low bits */
#define BB_EXP_Q0 0x1.fffffcp-2f
#define BB_EXP_Q1 0x1.555492p-3f
#define BB_EXP_Q2 0x1.5558f2p-5f
#define BB_EXP_Q3 0x1.1239f2p-7f
#define BB_EXP_Q4 0x1.6a241ap-10f

static inline double bb_lane_sum(double lane[16])
{
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++) lane[i] += lane[i + width];
    return lane[0];
}

#endif
