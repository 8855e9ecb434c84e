/* What the processor offers, asked at run time. */
#ifndef MFA_CPU_FEATURES_H
#define MFA_CPU_FEATURES_H

#include <stdbool.h>

bool mfai_cpu_has_baseline(void);   /* always */
bool mfai_cpu_has_avx2(void);       /* with FMA and F16C */
bool mfai_cpu_has_avx512(void);     /* F, BW, DQ, VL */
bool mfai_cpu_has_avx512vnni(void); /* the above and VNNI */
bool mfai_cpu_has_avx512bf16(void); /* the above and BF16 */
bool mfai_cpu_has_neon(void);
bool mfai_cpu_has_neon_bf16(void); /* BFDOT */
bool mfai_cpu_has_neon_i8mm(void); /* that and USDOT */

/* The processor's name, or a general word. */
void mfai_cpu_name(char *name, int size);

#endif
