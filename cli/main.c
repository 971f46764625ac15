/* SPDX-License-Identifier: GPL-3.0-or-later
 * main.c: the bitbudget command. */
#include <stdio.h>

int main(void)
{
    puts("bitbudget: under construction");
    return 0;
}
