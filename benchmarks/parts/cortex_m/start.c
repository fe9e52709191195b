/* A bare Cortex-M: vectors, and a main that counts instructions of samples with QEMU's clock, told by semihosting. */
#include "network.h"
#include "test_vectors.h"

#define SYST ((volatile uint32_t *)0xe000e010u) /* control, reload, current */
#define RUNS (VECTORS < 5 ? VECTORS : 5)

extern uint32_t stack_top;

static int host(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void tell(const char *name, uint32_t value)
{
    char text[12];
    int i = 11;
    text[i] = 0;
    do
        text[--i] = (char)('0' + value % 10);
    while (value /= 10);
    host(4, name);
    host(4, " ");
    host(4, text + i);
    host(4, "\n");
}

static void reset(void)
{
    static int32_t logits[CLASSES];
    uint32_t wrong = 0, ticks = 0, start;
    int i, k;
    SYST[1] = 0xffffff;
    SYST[2] = 0;
    SYST[0] = 5; /* processor clock, no interrupt */
    for (i = 0; i < RUNS; i++) {
        start = SYST[2];
        RUN(inputs[i], logits);
        ticks += (start - SYST[2]) & 0xffffff;
        for (k = 0; k < CLASSES; k++)
            wrong += logits[k] != expected_logits[i][k];
    }
    tell("runs", RUNS);
    tell("ticks", ticks);
    tell("wrong", wrong);
    host(0x18, (const void *)0x20026); /* stop */
    for (;;)
        ;
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {&stack_top, (void *)reset};
