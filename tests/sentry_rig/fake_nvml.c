/* A stand-in for libnvidia-ml.so.1, as much of it as sentry_rig/nvml_reader.py calls. Built by test_nvidia.py.
 * FAKE_NVML names a file that says how it behaves, one word: "well", "lost" (card 1 fell off the bus),
 * "gone" (card 1 cannot even be named), "hang" (a call never returns), "inithang", "crash", "nodriver". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK 0
#define NOT_SUPPORTED 3
#define DRIVER_NOT_LOADED 9
#define GPU_IS_LOST 15

static int cards[2] = {0, 1};

static int is(const char *word) {
    char told[32] = "well";
    FILE *file = fopen(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "/nowhere", "r");
    if (file) { if (fscanf(file, "%31s", told) != 1) told[0] = 0; fclose(file); }
    return strcmp(told, word) == 0;
}

/* Called first in each question about a card. */
static int state(void *card) {
    if (is("hang")) for (;;) sleep(1);
    if (is("crash")) abort();
    return *(int *)card == 1 && (is("lost") || is("gone")) ? GPU_IS_LOST : OK;
}

#define ASK(card) do { int found = state(card); if (found != OK) return found; } while (0)

int nvmlInitWithFlags(unsigned flags) { (void)flags; if (is("inithang")) for (;;) sleep(1); return is("nodriver") ? DRIVER_NOT_LOADED : OK; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
const char *nvmlErrorString(int code) { return code == GPU_IS_LOST ? "GPU is lost" : code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Not Supported"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "999.01"); return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **card) {
    if (index == 1 && is("gone")) return GPU_IS_LOST;
    *card = &cards[index];
    return OK;
}
int nvmlDeviceGetUUID(void *card, char *text, unsigned size) { snprintf(text, size, "GPU-0000-%d", *(int *)card); return OK; }
int nvmlDeviceGetName(void *card, char *text, unsigned size) { ASK(card); snprintf(text, size, "Fake GPU %d", *(int *)card); return OK; }
int nvmlDeviceGetVbiosVersion(void *card, char *text, unsigned size) { ASK(card); snprintf(text, size, "94.02"); return OK; }

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char busId[32]; } Pci;
int nvmlDeviceGetPciInfo_v3(void *card, Pci *pci) {
    ASK(card);
    memset(pci, 0, sizeof *pci);
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", *(int *)card ? 0x0B : 1);
    return OK;
}
int nvmlDeviceGetTemperature(void *card, int sensor, unsigned *celsius) { (void)sensor; ASK(card); *celsius = *(int *)card ? 511 : 61; return OK; }
int nvmlDeviceGetPowerUsage(void *card, unsigned *milliwatt) { ASK(card); *milliwatt = 118500; return *(int *)card ? NOT_SUPPORTED : OK; }
int nvmlDeviceGetEnforcedPowerLimit(void *card, unsigned *milliwatt) { ASK(card); *milliwatt = 130000; return OK; }
int nvmlDeviceGetTotalEnergyConsumption(void *card, unsigned long long *millijoule) { ASK(card); *millijoule = 7654321000ULL; return OK; }
int nvmlDeviceGetNumFans(void *card, unsigned *count) { ASK(card); *count = *(int *)card ? 0 : 2; return OK; }
int nvmlDeviceGetFanSpeed_v2(void *card, unsigned fan, unsigned *percent) { ASK(card); *percent = 40 + fan; return OK; }
int nvmlDeviceGetClockInfo(void *card, int type, unsigned *mhz) { ASK(card); *mhz = type ? 7001 : 1605; return OK; }
int nvmlDeviceGetMemoryInfo(void *card, unsigned long long *memory) { ASK(card); memory[0] = 8ULL << 30; memory[1] = 3ULL << 30; memory[2] = 5ULL << 30; return OK; }
int nvmlDeviceGetPerformanceState(void *card, int *pstate) { ASK(card); *pstate = 2; return OK; }
/* The rest (utilisation, throttle reasons, replay counter, field values) is missing, as in old drivers. */
