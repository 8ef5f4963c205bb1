/* Test side: what the lies are lies about: an operation that upgrades a simple header, as asked. */
#include "../rogue.h"

void operation_start(void)
{
    upgraded_header();
    write_sector(0);
    send_result(honest_result(0));
}
