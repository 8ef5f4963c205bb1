/* Pure, either side: packs records into frames. */
#include "inspect/sink.h"

void start_records(struct record_list *list, const struct sink *sink, uint32_t type)
{
    list->sink = sink;
    list->type = type;
    list->used = 0;
    list->left = INFO_RECORDS_MAX / 2;
}

uint8_t *add_record(struct record_list *list, uint32_t size)
{
    if (size > list->left || size > sizeof(list->bytes))
        return 0;
    if (size > sizeof(list->bytes) - list->used)
        end_records(list);
    list->left -= size;
    list->used += size;
    return list->bytes + list->used - size;
}

void end_records(struct record_list *list)
{
    if (list->used)
        list->sink->send(list->sink->context, list->type, list->bytes, list->used);
    list->used = 0;
}
