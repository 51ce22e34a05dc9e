#include "ingest.h"
void replay_start(void){}
void replay_wake(void){}
void replay_stop(void){}
