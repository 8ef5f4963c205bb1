/* Pure, either side: moves windows over the untrusted image. */
#include "image/window.h"

#include "bits.h"
#include "image/writes.h"

void mark_changed(struct window *window, uint64_t offset)
{
    set_bit(window->changed, (offset - window->offset) / SECTOR_SIZE);
}

bool flush_window(struct image *image, struct window *window)
{
    struct write_list list = {.phase = window->write_phase};
    for (uint32_t at = 0; at < window->size; at += SECTOR_SIZE)
        if (take_bit(window->changed, at / SECTOR_SIZE) &&
            !add_write(image, &list, window->offset + at, window->data + at, SECTOR_SIZE))
            return false;
    return flush_writes(image, &list);
}

bool is_in_window(const struct window *window, uint64_t offset, uint32_t length)
{
    return window->loaded && offset >= window->offset &&
           offset + length <= window->offset + window->size;
}

uint8_t *look(struct image *image, struct window *window, uint64_t offset, uint32_t length)
{
    if (!is_in_window(window, offset, length)) {
        if (window->loaded && !flush_window(image, window))
            return 0;
        window->loaded = false;
        window->offset = offset - offset % (window->any_order ? window->size : SECTOR_SIZE);
        if (!read_image(image, window->phase, window->offset, window->data, window->size))
            return 0;
        window->loaded = true;
    }
    return window->data + (offset - window->offset);
}
